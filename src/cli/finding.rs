//! What a check of `lidfs doctor` found.

use serde::Serialize;

use super::{Exit, Failure};

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
}

impl Finding {
    pub(super) fn new(check: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { check, verdict, detail: detail.into() }
    }
}

pub(super) fn show(findings: &[Finding], json: bool) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string_pretty(findings)
            .map_err(|error| Failure::of(Exit::Failure, &error))?;
        println!("{text}");
        return Ok(());
    }
    for Finding { check, verdict, detail } in findings {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        println!("{verdict:<5}{check:<14}{detail}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_have_a_stable_json_form() {
        let finding = Finding::new("fuse", Verdict::Warn, "x");
        let json = serde_json::to_string(&finding).unwrap();
        assert_eq!(json, r#"{"check":"fuse","verdict":"warn","detail":"x"}"#);
    }
}
