"""What values of messages look like: JSON of any shape, or Avro, Protobuf and JSON Schema with a schema registry."""
