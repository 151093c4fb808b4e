"""Files and folders of documents, and their passages."""
