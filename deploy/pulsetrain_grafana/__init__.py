"""The Grafana dashboards as code: `python -m pulsetrain_grafana` writes deploy/grafana/dashboards/*.json from it.

What is committed is the JSON, which Grafana reads as it is; the Python that makes it needs grafana-foundation-sdk and
runs on a developer's machine alone.
"""
