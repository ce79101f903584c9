#!/bin/sh
# Runs a Kafka command, chosen by the name under which this script is called; KAFKA_HEAP_OPTS and KAFKA_OPTS go to Java.
set -eu
case $(basename "$0" .sh) in
    kafka-run-class)        class=$1; shift ;;
    kafka-server-start)     class=kafka.Kafka; : "${KAFKA_HEAP_OPTS:=-Xmx1g -Xms1g}" ;;
    kafka-storage)          class=kafka.tools.StorageTool ;;
    kafka-topics)           class=org.apache.kafka.tools.TopicCommand ;;
    kafka-configs)          class=kafka.admin.ConfigCommand ;;
    kafka-acls)             class=kafka.admin.AclCommand ;;
    kafka-consumer-groups)  class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
    kafka-console-producer) class=org.apache.kafka.tools.ConsoleProducer ;;
    kafka-console-consumer) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
esac
# Unquoted: both hold several options. No -XX:+UsePerfData: it writes to /tmp, which may be read-only.
exec java ${KAFKA_HEAP_OPTS:--Xmx256m} -XX:-UsePerfData -XX:+ExitOnOutOfMemoryError ${KAFKA_OPTS:-} \
    -cp "$(dirname "$(readlink -f "$0")")/../libs/*" "$class" "$@"
