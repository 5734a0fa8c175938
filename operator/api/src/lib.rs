//! The GreptimeCluster custom resource.
