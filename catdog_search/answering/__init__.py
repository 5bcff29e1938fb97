"""Photos answered by an exported model in onnxruntime; Keras and MLflow stay out of here."""
