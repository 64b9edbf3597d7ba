#!/bin/sh
# Create the topics, once; running it again changes nothing. Needs kafka-topics.sh on PATH.
#   KAFKA_BOOTSTRAP     host:port                                       (localhost:9092)
#   PARTITIONS          of events and examples: the most workers that can share the load     (8)
#   REPLICATION_FACTOR  3 in production, 1 on a single broker           (1)
set -eu
bootstrap=${KAFKA_BOOTSTRAP:-localhost:9092}
partitions=${PARTITIONS:-8}
replicas=${REPLICATION_FACTOR:-1}
day=86400000

topic() { # name, partitions, settings…
  name=$1 count=$2
  shift 2
  set -- --create --if-not-exists --topic "$name" --partitions "$count" --replication-factor "$replicas" "$@"
  kafka-topics.sh --bootstrap-server "$bootstrap" "$@"
}

# Users are replayed from `events` when Redis was emptied, models from `examples`: keep them as long as that takes.
topic events "$partitions" --config retention.ms=$((14 * day))
topic examples "$partitions" --config retention.ms=$((14 * day))
topic control 1 --config retention.ms=$day
topic items 1 --config cleanup.policy=compact
topic users "$partitions" --config cleanup.policy=compact
# What was sent and held back is what `recs triggers report` counts.
topic triggers "$partitions" --config retention.ms=$((30 * day))
topic triggers.suppressed "$partitions" --config retention.ms=$((30 * day))
topic triggers.dlq 1 --config retention.ms=$((30 * day))
topic events.dlq 1 --config retention.ms=$((30 * day))
