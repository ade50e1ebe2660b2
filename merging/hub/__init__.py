"""Models of the Hugging Face Hub, by name: looked at without a download, and fetched as far as they are needed."""
