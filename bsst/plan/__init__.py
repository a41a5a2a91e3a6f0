"""The plan file: its manifest, its archive, and the JSON that neither repeats nor invents a key."""
