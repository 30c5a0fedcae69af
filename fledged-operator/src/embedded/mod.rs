//! A Kubernetes API server inside the process, for tests and the demo.
