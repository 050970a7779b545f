//! The table of a verification, for people.

use crate::message::PodVerdict;
use crate::steering::fault::Fault;

/// One line a pod below a head line; columns are as wide as their longest cell.
pub fn table(verdicts: &[PodVerdict]) -> String {
    if verdicts.is_empty() {
        return "no pod is enrolled".into();
    }
    let mut rows = vec![["POD", "UID", "ADDRESSES", "CAPTURED", "WHY"].map(str::to_owned)];
    rows.extend(verdicts.iter().map(row));
    let widths: [usize; 5] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.max().unwrap_or_default()
    });
    let lines: Vec<String> = rows.iter().map(|row| line(row, &widths)).collect();
    lines.join("\n")
}

fn row(verdict: &PodVerdict) -> [String; 5] {
    let ips: Vec<String> = verdict.ips.iter().map(ToString::to_string).collect();
    let mut why = Fault::join(&verdict.faults);
    if !verdict.repaired.is_empty() {
        let gap = if why.is_empty() { "" } else { "; " };
        why += &format!("{gap}repaired: {}", Fault::join(&verdict.repaired));
    }
    [
        format!("{}/{}", verdict.pod.namespace, verdict.pod.name),
        verdict.pod.uid.clone(),
        ips.join(","),
        if verdict.captured { "yes" } else { "NO" }.to_owned(),
        why,
    ]
}

fn line(row: &[String; 5], widths: &[usize; 5]) -> String {
    let cells: Vec<String> = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:width$}"))
        .collect();
    cells.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::PodName;
    use crate::steering::fault::Cause;

    #[test]
    fn every_pod_has_a_line_that_says_whether_and_why_not() {
        let pod = |name: &str| PodName {
            uid: format!("uid-of-{name}"),
            namespace: "shop".into(),
            name: name.into(),
        };
        let rule = Fault::new(Cause::Rule, "the IPv4 rule is gone");
        let whole = PodVerdict {
            pod: pod("web"),
            ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            captured: true,
            faults: vec![],
            repaired: vec![],
        };
        let broken = PodVerdict {
            pod: pod("database"),
            ips: vec![],
            captured: false,
            faults: vec![rule.clone(), Fault::new(Cause::Hook, "no hook")],
            repaired: vec![rule],
        };
        let text = table(&[whole, broken]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "shop/web       uid-of-web       10.0.0.1,fd00::1  yes"
        );
        assert_eq!(
            lines[2],
            "shop/database  uid-of-database                    NO        rule: the IPv4 rule is \
             gone; hook: no hook; repaired: rule: the IPv4 rule is gone"
        );
        assert_eq!(table(&[]), "no pod is enrolled");
    }
}
