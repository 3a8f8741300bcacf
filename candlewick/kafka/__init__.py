"""Apache Kafka without Docker and without Java: jars from Maven Central, on a JVM from a wheel."""
