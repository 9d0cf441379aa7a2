//! The Kubernetes manifests: every document is what the API knows by that name, no field more, and they fit together.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{path, read, text, yaml};
use crate::harness::{Lockstep, On, World};

fn documents() -> Vec<Value> {
    let folder = std::fs::read_dir(path("deploy/kubernetes")).expect("manifests").flatten();
    let files = folder.map(|entry| format!("deploy/kubernetes/{}", entry.file_name().to_string_lossy()));
    let documents: Vec<Value> = files.flat_map(|file| yaml(&file)).collect();
    assert!(documents.len() > 5);
    documents
}

fn of_kind(kind: &str) -> Vec<Value> {
    documents().into_iter().filter(|document| document["kind"] == kind).collect()
}

fn deployment() -> Value {
    of_kind("Deployment").remove(0)
}

/// What of `written` the types of the API do not keep.
fn lost(written: &Value, kept: &Value, at: &str) -> Vec<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written
            .iter()
            .flat_map(|(name, value)| {
                let at = format!("{at}/{name}");
                kept.get(name).map_or_else(|| vec![at.clone()], |kept| lost(value, kept, &at))
            })
            .collect(),
        (Value::Array(written), Value::Array(kept)) if written.len() == kept.len() => {
            let items = written.iter().zip(kept).enumerate();
            items.flat_map(|(index, (value, kept))| lost(value, kept, &format!("{at}/{index}"))).collect()
        }
        _ if written == kept => Vec::new(),
        _ => vec![format!("{at}: {written} became {kept}")],
    }
}

/// Fields that the API does not know, and values of a wrong kind.
fn faults<T: DeserializeOwned + Serialize>(document: &Value) -> Vec<String> {
    match serde_json::from_value::<T>(document.clone()) {
        Ok(known) => lost(document, &serde_json::to_value(known).expect("JSON"), ""),
        Err(error) => vec![error.to_string()],
    }
}

fn schema_faults(document: &Value) -> Vec<String> {
    match (text(document, "/apiVersion"), text(document, "/kind")) {
        ("v1", "ServiceAccount") => faults::<ServiceAccount>(document),
        ("v1", "ConfigMap") => faults::<ConfigMap>(document),
        ("v1", "Service") => faults::<Service>(document),
        ("apps/v1", "Deployment") => faults::<Deployment>(document),
        ("policy/v1", "PodDisruptionBudget") => faults::<PodDisruptionBudget>(document),
        ("networking.k8s.io/v1", "NetworkPolicy") => faults::<NetworkPolicy>(document),
        other => vec![format!("{other:?} is no kind that is looked at here")],
    }
}

#[test]
fn every_document_is_what_the_api_knows() {
    for document in documents() {
        assert_eq!(schema_faults(&document), [] as [&str; 0], "{document:#}");
    }
    // A slip of the pen is seen.
    let mut slipped = deployment();
    slipped["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = Value::Bool(true);
    assert_eq!(schema_faults(&slipped), ["/spec/template/spec/containers/0/readinesProbe"]);
    let mut slipped = deployment();
    slipped["spec"]["replicas"] = Value::String("two".into());
    assert_eq!(schema_faults(&slipped).len(), 1);
}

#[test]
fn selectors_find_the_pods_and_nothing_that_is_named_is_missing() {
    let deployment = deployment();
    let pod = &deployment["spec"]["template"];
    let labels = pod["metadata"]["labels"].as_object().expect("labels");
    let mut selectors = vec![&deployment["spec"]["selector"]["matchLabels"]];
    let (services, budgets, policies) =
        (of_kind("Service"), of_kind("PodDisruptionBudget"), of_kind("NetworkPolicy"));
    assert!(services.len() == 2 && budgets.len() == 1 && policies.len() == 1);
    selectors.extend(services.iter().map(|service| &service["spec"]["selector"]));
    selectors.extend(budgets.iter().map(|budget| &budget["spec"]["selector"]["matchLabels"]));
    selectors.extend(policies.iter().map(|policy| &policy["spec"]["podSelector"]["matchLabels"]));
    for selector in selectors {
        let wanted = selector.as_object().expect("a selector");
        assert!(!wanted.is_empty() && wanted.iter().all(|(name, value)| labels.get(name) == Some(value)));
    }

    let container = &pod["spec"]["containers"][0];
    let ports: BTreeSet<&str> =
        container["ports"].as_array().expect("ports").iter().map(|port| text(port, "/name")).collect();
    let targets = services.iter().map(|service| text(service, "/spec/ports/0/targetPort"));
    let probes = ["livenessProbe", "readinessProbe"].map(|probe| text(&container[probe], "/httpGet/port"));
    let policy = text(&policies[0], "/spec/ingress/0/ports/0/port");
    for port in targets.chain(probes).chain([policy]) {
        assert!(ports.contains(port), "{port}");
    }

    let accounts = of_kind("ServiceAccount");
    assert_eq!(pod["spec"]["serviceAccountName"], accounts[0]["metadata"]["name"]);
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
    for mount in container["volumeMounts"].as_array().expect("mounts") {
        assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
        assert_eq!(mount["readOnly"], true);
    }
    let maps = of_kind("ConfigMap");
    let mapped = volumes.iter().filter_map(|volume| volume["configMap"]["name"].as_str());
    assert!(mapped.into_iter().all(|name| maps[0]["metadata"]["name"] == name));
}

#[test]
fn the_pods_are_locked_in_and_can_be_moved() {
    let deployment = deployment();
    assert_eq!(deployment["spec"]["replicas"], 2);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"][0], "ALL");
    assert!(container["resources"]["limits"]["memory"].is_string());
    assert!(container["resources"]["requests"]["cpu"].is_string());
    let policy = of_kind("NetworkPolicy").remove(0);
    assert_eq!(policy["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    assert_eq!(of_kind("PodDisruptionBudget")[0]["spec"]["maxUnavailable"], 1);
}

#[test]
fn secrets_come_from_secrets_and_those_are_explained() {
    assert!(of_kind("Secret").is_empty(), "values of secrets are in no file");
    let deployment = deployment();
    let pod = &deployment["spec"]["template"]["spec"];
    let mut named = BTreeSet::new();
    for variable in pod["containers"][0]["env"].as_array().expect("env") {
        assert!(variable.get("value").is_none(), "{variable}");
        let secret = &variable["valueFrom"]["secretKeyRef"];
        named.insert((text(secret, "/name").to_owned(), Some(text(secret, "/key").to_owned())));
    }
    let volumes = pod["volumes"].as_array().expect("volumes").iter();
    named.extend(
        volumes.filter_map(|volume| Some((volume["secret"]["secretName"].as_str()?.to_owned(), None))),
    );
    assert!(named.len() >= 3, "{named:?}");
    let manifest = read("deploy/kubernetes/lockstep.yaml");
    for (name, key) in named {
        assert!(manifest.contains(&format!("create secret generic {name} ")), "{name}");
        let key = key.unwrap_or("token".into());
        assert!(manifest.contains(&format!("--from-literal={key}=")), "{key}");
    }
}

/// The configuration of the manifest is one that the program reads, and the probes are paths that it answers.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_understands_its_configuration_and_answers_the_probes() {
    let world = World::running(On::Single).await;
    let deployment = deployment();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    for probe in ["livenessProbe", "readinessProbe"] {
        let path = text(&container[probe], "/httpGet/path");
        assert_eq!(world.lockstep.http("GET", path).await.unwrap().0, 200, "{path}");
    }
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    let metrics = annotations["prometheus.io/path"].as_str().expect("a path");
    assert_eq!(world.lockstep.http("GET", metrics).await.unwrap().0, 200);
    let maps = of_kind("ConfigMap");
    let toml = text(&maps[0], "/data/lockstep.toml");
    let printed = Lockstep::new("postgres://nobody@127.0.0.1:1/none", &[world.store.single().url()], "");
    printed.configure(&toml.replace("token_file", "#token_file"));
    let shown = printed.finish(&["check", "--print-config"]).await;
    assert!(shown.stdout.contains("retained_wal_max = \"8GiB\""), "{shown:?}");
}
