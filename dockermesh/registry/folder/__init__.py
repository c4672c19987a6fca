"""Config, its history and tokens in folders of JSON files: for backends that keep none."""
