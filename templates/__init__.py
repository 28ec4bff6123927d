"""What `dcf function init` writes, and the annotated config.yaml: data, no code."""
