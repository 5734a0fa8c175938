//! A real three-node Kubernetes on one machine, without Docker.
