"""A model behind a URL: photos in over HTTP, answers out. Keras and MLflow stay out of here."""
