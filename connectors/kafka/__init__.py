"""Topics in Apache Kafka: `connectors.kafka.connector.KafkaConnector`."""
