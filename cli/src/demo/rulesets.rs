//! The packet filter rules of a namespace, as text to compare.

use world::{Place, Program, WorldError};

/// A rule set that was there before the mesh, so that the comparison is not one of nothing with
/// nothing: what an owner of a pod might have.
const OWNERS_RULES: &str = "\
table inet owner {
    chain input {
        type filter hook input priority filter; policy accept;
        tcp dport 4 drop
    }
}
";

/// Puts the owner's rules into a namespace.
pub fn add_owners_rules(place: &Place) -> Result<(), WorldError> {
    place
        .run(&Program::line("nft -f -").stdin(OWNERS_RULES))?
        .success()?;
    Ok(())
}

/// What the three listing programs print, one after the other.
pub fn read(place: &Place) -> Result<String, WorldError> {
    let mut all = String::new();
    for line in ["iptables-save", "ip6tables-save", "nft list ruleset"] {
        all.push_str(&format!(
            "# {line}\n{}\n",
            place.text(&Program::line(line))?
        ));
    }
    Ok(all)
}
