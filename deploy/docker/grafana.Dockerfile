# Grafana with the ClickHouse plugin, the data source, the dashboards and the alert rules of the pipeline.
#
#   docker build -f deploy/docker/grafana.Dockerfile -t pulsetrain/grafana:0.1.0 .
#
# Its address of ClickHouse and its passwords come by the environment, see deploy/grafana/provisioning. Only
# /var/lib/grafana and /tmp are written.

FROM grafana/grafana:11.6.2 AS grafana
USER root
# Not in /var/lib/grafana, where a volume would hide it.
RUN mkdir -p /opt/grafana-plugins \
    && grafana cli --pluginsDir /opt/grafana-plugins plugins install grafana-clickhouse-datasource 4.11.4 \
    && chmod -R a+rX /opt/grafana-plugins
COPY deploy/grafana/provisioning /etc/grafana/provisioning
COPY deploy/grafana/dashboards /etc/grafana/dashboards
ENV GF_PATHS_PLUGINS=/opt/grafana-plugins \
    GF_ANALYTICS_REPORTING_ENABLED=false \
    GF_ANALYTICS_CHECK_FOR_UPDATES=false \
    GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false \
    GF_NEWS_NEWS_FEED_ENABLED=false \
    GF_PLUGINS_PREINSTALL_DISABLED=true \
    PULSETRAIN_DASHBOARDS=/etc/grafana/dashboards
USER 472:0
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pulsetrain-grafana" \
    org.opencontainers.image.description="Grafana with the ClickHouse plugin and Pulsetrain's dashboards" \
    org.opencontainers.image.vendor="The Pulsetrain authors" \
    org.opencontainers.image.licenses="Apache-2.0 AND AGPL-3.0-only" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
EXPOSE 3000
# The image has busybox and no Python.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:3000/api/health"]
