"""Images, labels, proposals and ground truth. Nothing here is imported for you: import the module you need."""
