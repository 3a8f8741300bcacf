"""The application: joins exchanges, Kafka, Faust processors and the web."""
