"""An index that follows a folder."""

# Programs of users import it from here, as docs/sync.md shows.
from llama2vec.retrieve.syncing.following import Following as Following
