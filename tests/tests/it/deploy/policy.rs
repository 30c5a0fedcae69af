//! The ValidatingAdmissionPolicy that restricts an agent to its own node's record: evaluates its CEL expressions.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use cel::{Context, Env, Program};
use fledged_tests::require;
use serde_json::{Value, json};

use super::rendered::{deploy, documents, named, plain, template};

const CLAIM: &str = "authentication.kubernetes.io/node-name";

/// Evaluates the policy for a request. Returns its messages if the request is refused.
fn decide(policy: &Value, request: &Value) -> Result<(), Vec<String>> {
    let holds = |expression: &Value| {
        let program = Program::compile(expression.as_str().unwrap()).unwrap();
        let mut context = Context::with_env(Arc::new(Env::stdlib()));
        let request = cel::to_value(request).unwrap();
        context.add_variable_from_value("request", request);
        // With failurePolicy Fail, an evaluation error refuses the request.
        matches!(program.execute(&context), Ok(cel::Value::Bool(true)))
    };
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let conditions = policy["spec"]["matchConditions"].as_array().unwrap();
    if !conditions
        .iter()
        .all(|condition| holds(&condition["expression"]))
    {
        return Ok(());
    }
    let validations = policy["spec"]["validations"].as_array().unwrap();
    let refusals: Vec<String> = validations
        .iter()
        .filter(|validation| !holds(&validation["expression"]))
        .map(|validation| validation["message"].as_str().unwrap().to_owned())
        .collect();
    match refusals.is_empty() {
        true => Ok(()),
        false => Err(refusals),
    }
}

fn request(user: &str, node: Value, name: &str) -> Value {
    let mut extra = json!({ "authentication.kubernetes.io/pod-name": ["agent-x"] });
    if !node.is_null() {
        extra[CLAIM] = node;
    }
    json!({
        "operation": "UPDATE", "subResource": "status", "name": name,
        "userInfo": { "username": user, "extra": extra },
    })
}

#[test]
fn agents_may_only_write_the_status_of_their_record() {
    if !require(&["helm"]) {
        return;
    }
    let chart = template(&[]);
    for (objects, account) in [
        (chart, "kube-fledged-agent"),
        (plain(), "kubefledged-agent"),
    ] {
        let policy = named(&objects, "ValidatingAdmissionPolicy", "-agent");
        let agent = format!("system:serviceaccount:kube-fledged:{account}");
        let own = request(&agent, json!(["node-1"]), "node-1");
        assert_eq!(decide(policy, &own), Ok(()));
        for (why, refused) in [
            (
                "another node's",
                request(&agent, json!(["node-1"]), "node-2"),
            ),
            ("no claim", request(&agent, Value::Null, "node-1")),
            (
                "two claims",
                request(&agent, json!(["node-1", "node-2"]), "node-1"),
            ),
            ("an empty claim", request(&agent, json!([]), "node-1")),
            ("no name", request(&agent, json!(["node-1"]), "")),
        ] {
            let refusals = decide(policy, &refused).expect_err(why);
            assert!(refusals[0].contains("its own node"), "{why}: {refusals:?}");
        }
        let mut nothing = own.clone();
        nothing["userInfo"].as_object_mut().unwrap().remove("extra");
        assert!(decide(policy, &nothing).is_err());
        for (field, value) in [
            ("subResource", ""),
            ("operation", "DELETE"),
            ("operation", "CREATE"),
        ] {
            let mut other = own.clone();
            other[field] = value.into();
            let refusals = decide(policy, &other).expect_err(field);
            assert!(refusals[0].contains("the status"), "{field}: {refusals:?}");
        }
        // An overlay may install the agents in another namespace, with another prefix or suffix.
        for user in [
            format!("system:serviceaccount:elsewhere:{account}"),
            format!("system:serviceaccount:elsewhere:team-{account}-b"),
        ] {
            let own = request(&user, json!(["node-1"]), "node-1");
            assert_eq!(decide(policy, &own), Ok(()), "{user}");
            let other = request(&user, json!(["node-1"]), "node-2");
            assert!(decide(policy, &other).is_err(), "{user}");
        }
        // The policy applies to no other subject: the controller, a person, an account that only resembles an agent's.
        for user in [
            "system:serviceaccount:kube-fledged:kube-fledged-controller".to_owned(),
            format!("system:serviceaccount:{account}:controller"),
            "admin".to_owned(),
            account.to_owned(),
        ] {
            assert_eq!(
                decide(policy, &request(&user, Value::Null, "node-2")),
                Ok(()),
                "{user}"
            );
        }
    }
}

#[test]
fn policy_is_bound_and_matches_spec_and_status() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&[]);
    let policy = named(&objects, "ValidatingAdmissionPolicy", "-agent");
    let binding = named(&objects, "ValidatingAdmissionPolicyBinding", "-agent");
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    let rule = &policy["spec"]["matchConstraints"]["resourceRules"][0];
    assert_eq!(
        rule["resources"],
        json!(["nodeimagecaches", "nodeimagecaches/status"])
    );
    assert_eq!(rule["operations"], json!(["CREATE", "UPDATE", "DELETE"]));
    // The policy names the ServiceAccount of the DaemonSet.
    let account =
        &named(&objects, "DaemonSet", "-agent")["spec"]["template"]["spec"]["serviceAccountName"];
    let condition = policy["spec"]["matchConditions"][0]["expression"]
        .as_str()
        .unwrap();
    let user = format!(":[^:]*{}[^:]*$')", account.as_str().unwrap());
    assert!(condition.ends_with(&user), "{condition}");
}

/// A dot in the account's name is no wildcard of the regular expression.
#[test]
fn account_names_with_dots_are_matched_literally() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&["--set=serviceAccount.name=a.b"]);
    let policy = named(&objects, "ValidatingAdmissionPolicy", "-agent");
    let foreign = |account: &str| {
        let user = format!("system:serviceaccount:kube-fledged:{account}");
        decide(policy, &request(&user, json!(["node-1"]), "node-2"))
    };
    assert!(foreign("a.b-agent").is_err());
    assert_eq!(foreign("axb-agent"), Ok(()));
}

/// `kubectl apply -k` of an overlay changes names and namespaces, but no text inside an expression.
#[test]
fn policy_holds_under_a_kustomize_overlay() {
    if !require(&["kubectl"]) {
        return;
    }
    for transformers in [
        "namespace: image-warmer\n",
        "namePrefix: team-\n",
        "namespace: image-warmer\nnamePrefix: team-\nnameSuffix: -b\n",
    ] {
        let objects = overlay(transformers);
        let policy = named(&objects, "ValidatingAdmissionPolicy", "");
        let binding = named(&objects, "ValidatingAdmissionPolicyBinding", "");
        assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
        let agents = named(&objects, "DaemonSet", "");
        let user = format!(
            "system:serviceaccount:{}:{}",
            agents["metadata"]["namespace"].as_str().unwrap(),
            agents["spec"]["template"]["spec"]["serviceAccountName"]
                .as_str()
                .unwrap()
        );
        let own = request(&user, json!(["node-1"]), "node-1");
        assert_eq!(decide(policy, &own), Ok(()), "{transformers}");
        let other = request(&user, json!(["node-1"]), "node-2");
        assert!(decide(policy, &other).is_err(), "{transformers}");
    }
}

/// Renders an overlay of `deploy` with these transformers.
fn overlay(transformers: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    // kustomize accepts a base only by a relative path.
    for file in [
        "kustomization.yaml",
        "kubefledged-namespace.yaml",
        "kubefledged-crd.yaml",
        "kubefledged.yaml",
    ] {
        let to = folder.path().join("base").join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(deploy(file), to).unwrap();
    }
    let overlay = folder.path().join("overlay");
    fs::create_dir(&overlay).unwrap();
    let text = format!("resources: [../base]\n{transformers}");
    fs::write(overlay.join("kustomization.yaml"), text).unwrap();
    let mut kubectl = Command::new("kubectl");
    let output = kubectl.arg("kustomize").arg(overlay).output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    documents(&String::from_utf8(output.stdout).unwrap())
}
