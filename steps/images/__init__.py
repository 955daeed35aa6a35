"""Images: from the bytes of a file to a manifest row and to a tensor, loose or packed in shards."""
