//! Reads everything that a plan is made from.

use std::collections::BTreeMap;

use futures::future::join_all;
use futures::join;
use greptime_operator_api::GreptimeCluster;
use greptime_operator_plan::{Fact, MetasrvReport, Observed, SecretFact, referenced_secrets};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::backoff::Key;
use crate::children::{self, Children, LABEL_COMPONENT, STATEFUL_SET};
use crate::context::Context;
use crate::error::{Doing, Error};
use crate::metasrv::Instance;

/// What was seen of a cluster.
pub struct Seen {
    /// As the plan wants it.
    pub observed: Observed,
    /// As the API server has it.
    pub children: Children,
}

pub async fn observe(context: &Context, key: &Key, cluster: GreptimeCluster) -> Result<Seen, Error> {
    let (children, pods, secrets) = join!(
        children::read(context, key),
        pods(context, key),
        secrets(context, key, &cluster)
    );
    let (children, pods) = (children?, pods?);
    let observed = Observed {
        default_image: context.default_image.clone(),
        stateful_sets: stateful_sets(&children)?,
        metasrv: metasrv(context, key, &pods).await,
        now: context.now().to_string(),
        pods,
        secrets,
        cluster,
    };
    Ok(Seen { observed, children })
}

fn stateful_sets(children: &Children) -> Result<BTreeMap<String, StatefulSet>, Error> {
    let sets = children.iter().filter(|((kind, _), _)| kind == STATEFUL_SET);
    let typed = sets.map(|((_, name), value)| {
        let set = StatefulSet::deserialize_from(value).map_err(Error::Encode)?;
        Ok((name.clone(), set))
    });
    typed.collect()
}

trait FromLive: Sized {
    fn deserialize_from(value: &serde_json::Value) -> serde_json::Result<Self>;
}

impl FromLive for StatefulSet {
    fn deserialize_from(value: &serde_json::Value) -> serde_json::Result<Self> {
        // A list leaves out what its items are, and the type insists on it.
        let mut value = value.clone();
        value["apiVersion"] = "apps/v1".into();
        value["kind"] = STATEFUL_SET.into();
        serde_json::from_value(value)
    }
}

/// Pods of the roles; the one of a Job that destroys the data is none.
pub async fn pods(context: &Context, key: &Key) -> Result<Vec<Pod>, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.0);
    let params = ListParams::default().labels(&children::selector(&key.1));
    let list = api
        .list(&params)
        .await
        .doing(|| format!("list pods of {}", key.1))?;
    let is_role = |pod: &Pod| {
        let component = pod.labels().get(LABEL_COMPONENT).map(String::as_str);
        matches!(component, Some("metasrv" | "datanode" | "frontend"))
    };
    Ok(list.into_iter().filter(is_role).collect())
}

/// By name, one by one: the right to list secrets would be the right to read them all. One that cannot be read is not
/// an error of the reconcile but something to tell.
async fn secrets(
    context: &Context,
    key: &Key,
    cluster: &GreptimeCluster,
) -> BTreeMap<String, Fact<SecretFact>> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.0);
    let asked = referenced_secrets(&cluster.spec).into_iter().map(|name| {
        let api = api.clone();
        async move {
            let fact = match api.get_opt(&name).await {
                Ok(Some(secret)) => Fact::Known(secret_fact(&secret)),
                Ok(None) => Fact::Absent,
                Err(kube::Error::Api(status)) => Fact::Unknown(status.message.clone()),
                Err(error) => Fact::Unknown(error.to_string()),
            };
            (name, fact)
        }
    });
    join_all(asked).await.into_iter().collect()
}

/// The values are looked at once, for being empty, and go no further.
fn secret_fact(secret: &Secret) -> SecretFact {
    let data = secret.data.iter().flatten();
    let keys = data
        .filter(|(_, value)| !value.0.is_empty())
        .map(|(key, _)| key.clone())
        .collect();
    SecretFact {
        keys,
        resource_version: secret.resource_version().unwrap_or_default(),
    }
}

async fn metasrv(context: &Context, key: &Key, pods: &[Pod]) -> Fact<MetasrvReport> {
    let instances: Vec<_> = pods.iter().filter_map(instance).collect();
    if instances.is_empty() {
        return Fact::Absent;
    }
    match context.metasrv.ask(&key.0, &key.1, &instances).await {
        Ok(answer) => match serde_json::from_value(answer) {
            Ok(report) => Fact::Known(report),
            Err(error) => Fact::Unknown(format!("metasrv's answer is not understood: {error}")),
        },
        Err(why) => Fact::Unknown(why),
    }
}

/// A pod of metasrv that has an address, ready or not: the one that cannot reach etcd is the one to ask why.
fn instance(pod: &Pod) -> Option<Instance> {
    if pod.labels().get(LABEL_COMPONENT).map(String::as_str) != Some("metasrv") {
        return None;
    }
    let ip = pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    Some(Instance {
        pod: pod.name_any(),
        ip,
    })
}
