//! The definitions, brought into a cluster.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::wait::conditions::is_crd_established;
use kube::runtime::wait::{self, await_condition};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::{ImageCache, NodeImageCache, definitions};

/// Field manager of the definitions.
pub const INSTALLER: &str = "fledged-installer";
/// How long a definition may take to be served; an API server needs a second or two.
const ESTABLISHED_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether the resources are served: an API server takes some hundred milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why the definitions are not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// It was refused.
    #[error("cannot apply the CustomResourceDefinition {name}: {source}")]
    Apply {
        /// Its name.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// Whether it is served can't be seen.
    #[error("cannot watch the CustomResourceDefinition {name}: {source}")]
    Watch {
        /// Its name.
        name: String,
        /// What went wrong.
        source: Box<wait::Error>,
    },
    /// It was applied, but is not served.
    #[error("the CustomResourceDefinition {name} is not established within {} s: {problem}", .limit.as_secs())]
    NotEstablished {
        /// Its name.
        name: String,
        /// How long was waited.
        limit: Duration,
        /// What its conditions say.
        problem: String,
    },
    /// It is established, but its objects can't be listed.
    #[error("{plural} of kubefledged.io can't be listed within {} s: {problem}", .limit.as_secs())]
    NotServed {
        /// `imagecaches` or `nodeimagecaches`.
        plural: String,
        /// How long was waited.
        limit: Duration,
        /// What the API server said last.
        problem: String,
    },
}

/// Applies [`definitions`] and waits until the API server serves them; once they are as they should be,
/// nothing changes. To be called before a [`Controller`](crate::controller::Controller) runs, by
/// whoever may do it: `customresourcedefinitions` of `apiextensions.k8s.io`, verbs get, list, watch,
/// create, patch.
///
/// Applied on the server's side under the field manager [`INSTALLER`], which takes over what other
/// managers, such as `kubectl apply` or a chart, have set of the same fields. An older version of this
/// crate would so take back what a newer one added.
///
/// # Errors
///
/// [`InstallError`], which names the definition; those before it are applied.
pub async fn install(client: &Client) -> Result<(), InstallError> {
    let api = Api::all(client.clone());
    for definition in definitions() {
        apply(&api, &definition).await?;
    }
    for definition in definitions() {
        established(&api, definition.name_any()).await?;
    }
    served::<ImageCache>(client).await?;
    served::<NodeImageCache>(client).await
}

/// Established, a definition still has to reach every part of the API server.
async fn served<K>(client: &Client) -> Result<(), InstallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let one = ListParams::default().limit(1);
    let mut seen = "nothing was answered".to_owned();
    let listed = async {
        while let Err(error) = api.list_metadata(&one).await {
            seen = error.to_string();
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let in_time = tokio::time::timeout(ESTABLISHED_LIMIT, listed).await;
    in_time.map_err(|_| InstallError::NotServed {
        plural: K::plural(&()).into_owned(),
        limit: ESTABLISHED_LIMIT,
        problem: seen,
    })
}

async fn apply(
    api: &Api<CustomResourceDefinition>,
    definition: &CustomResourceDefinition,
) -> Result<(), InstallError> {
    let name = definition.name_any();
    let params = PatchParams::apply(INSTALLER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(definition)).await;
    applied.map(drop).map_err(|source| InstallError::Apply {
        name,
        source: Box::new(source),
    })
}

async fn established(
    api: &Api<CustomResourceDefinition>,
    name: String,
) -> Result<(), InstallError> {
    let waiting = await_condition(api.clone(), &name, is_crd_established());
    match tokio::time::timeout(ESTABLISHED_LIMIT, waiting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => Err(InstallError::Watch {
            name,
            source: Box::new(source),
        }),
        Err(_) => {
            let found = api.get_opt(&name).await.ok().flatten();
            Err(InstallError::NotEstablished {
                problem: problem(found.as_ref()),
                limit: ESTABLISHED_LIMIT,
                name,
            })
        }
    }
}

/// What stands in the way, such as names that another definition has.
fn problem(found: Option<&CustomResourceDefinition>) -> String {
    let conditions = found
        .and_then(|definition| definition.status.as_ref()?.conditions.as_ref())
        .into_iter()
        .flatten();
    let said: Vec<String> = conditions
        .filter(|condition| condition.status != "True")
        .map(|condition| {
            let message = condition.message.as_deref().unwrap_or_default();
            format!("{} is {}: {message}", condition.type_, condition.status)
        })
        .collect();
    match said.is_empty() {
        true => "it has no condition that says why".to_owned(),
        false => said.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_said_what_stands_in_the_way() {
        let [mut definition, _] = definitions();
        assert!(problem(None).contains("no condition"));
        definition.status = serde_json::from_value(json!({
            "acceptedNames": { "kind": "", "plural": "" },
            "conditions": [
                { "type": "NamesAccepted", "status": "False", "message": "\"ic\" is already in use" },
                { "type": "Established", "status": "False", "message": "not all names are accepted" },
            ],
        }))
        .unwrap();
        let said = problem(Some(&definition));
        assert!(
            said.starts_with("NamesAccepted is False: \"ic\" is already in use; "),
            "{said}"
        );
    }
}
