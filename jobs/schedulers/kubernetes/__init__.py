"""Jobs on Kubernetes, sent with kubectl."""
