//! What a CNI runtime hands the plugin: whatever it is, the answer is a configuration within its
//! bounds or an error of the specification, and a pod that is named can name a directory.

use cni_plugin::plugin::netconf::{CallEnv, NetConf, VERSIONS, version_for_errors};
use serde_json::Value;

/// Input: CNI_ARGS, CNI_CONTAINERID, CNI_IFNAME and CNI_NETNS on a line each, then stdin.
pub fn holds(input: &[u8]) {
    let mut parts = input.splitn(5, |byte| *byte == b'\n');
    let mut line = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let env = CallEnv {
        command: "ADD".into(),
        args: line(),
        container_id: line(),
        ifname: line(),
        netns: line(),
    };
    env_holds(&env);
    let stdin = parts.next().unwrap_or_default();
    assert!(VERSIONS.contains(&version_for_errors(stdin).as_str()));
    match NetConf::parse(stdin) {
        Ok(conf) => conf_holds(&conf, stdin),
        Err(error) => assert!(matches!(error.code, 1 | 6 | 7), "{error:?}"),
    }
}

fn env_holds(env: &CallEnv) {
    for netns_too in [false, true] {
        match env.require(netns_too) {
            Ok(()) => assert!(!env.container_id.contains('/') && !env.ifname.is_empty()),
            Err(error) => assert!(error.code == 4 && !error.details.is_empty()),
        }
    }
    match env.pod() {
        Ok(pod) => {
            assert_eq!(pod.mistake(), None);
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            assert!(!pod.uid.is_empty() && pod.uid.bytes().all(plain), "{pod:?}");
        }
        Err(error) => assert_eq!(error.code, 4),
    }
}

fn conf_holds(conf: &NetConf, stdin: &[u8]) {
    assert!(VERSIONS.contains(&conf.version.as_str()));
    assert_eq!(conf.version, version_for_errors(stdin));
    assert!(conf.agent_socket.is_absolute());
    assert!((1..=300).contains(&conf.timeout.as_secs()));
    let given: Value = serde_json::from_slice(stdin).expect("it was read before");
    // The plugin prints it as its own result.
    let prev_result = given.get("prevResult").filter(|value| !value.is_null());
    assert_eq!(conf.prev_result.as_ref(), prev_result);
    if let Some(result) = prev_result {
        let printed: Value = serde_json::from_str(&result.to_string()).expect("our own printing");
        assert!(alike(&printed, result), "{printed} for {result}");
    }
    match conf.ips() {
        Ok(ips) => {
            let listed = prev_result.and_then(|result| result.get("ips")?.as_array());
            assert_eq!(ips.len(), listed.map_or(0, Vec::len));
        }
        Err(error) => assert_eq!(error.code, 7),
    }
}

/// Equal, but for the last digits of fractions: serde_json reads these within an ulp or two. No
/// version of CNI has any.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let pairs = one.iter().zip(other);
            one.len() == other.len()
                && pairs
                    .into_iter()
                    .all(|(a, b)| a.0 == b.0 && alike(a.1, b.1))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| alike(a, b))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(1.0));
            (one - other).abs() <= one.abs() * 4.0 * f64::EPSILON
        }
        _ => one == other,
    }
}
