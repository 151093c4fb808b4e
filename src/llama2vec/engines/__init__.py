"""Vector databases and search engines that other people run, each behind the same small interface."""
