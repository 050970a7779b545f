//! What flags and variables come to.

use super::*;

fn read(
    flags: &TracingFlags,
    variables: &[(&str, &str)],
) -> Result<Option<Settings>, SettingsError> {
    flags.settings(&|name| {
        let mut found = variables.iter().filter(|(key, _)| *key == name);
        found.next().map(|(_, value)| (*value).to_owned())
    })
}

fn of(variables: &[(&str, &str)]) -> Settings {
    let mut all = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317")];
    all.extend(variables);
    read(&TracingFlags::default(), &all).unwrap().unwrap()
}

fn error(variables: &[(&str, &str)]) -> String {
    let mut all = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317")];
    all.extend(variables);
    let error = read(&TracingFlags::default(), &all).unwrap_err();
    error.to_string()
}

#[test]
fn without_a_collector_nothing_is_traced() {
    let flags = TracingFlags {
        tracing_sampling: Some(100.0),
        ..TracingFlags::default()
    };
    let others = [("OTEL_TRACES_SAMPLER", "always_on")];
    assert!(read(&flags, &others).unwrap().is_none());
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        let mut all = vec![(name, value), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a")];
        all.truncate(if value.is_empty() { 1 } else { 2 });
        let settings = read(&TracingFlags::default(), &all).unwrap();
        assert!(settings.is_none(), "{name}={value}");
    }
}

#[test]
fn the_flag_goes_before_the_variable_of_traces_and_that_before_the_general_one() {
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general");
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:1");
    let flags = TracingFlags {
        tracing_endpoint: Some("http://[fd00::1]".into()),
        ..TracingFlags::default()
    };
    for (flags, variables, wanted) in [
        (&flags, vec![general, traces], "http://[fd00::1]:4317/"),
        (
            &TracingFlags::default(),
            vec![general, traces],
            "http://traces:1/",
        ),
        (
            &TracingFlags::default(),
            vec![general],
            "http://general:4317/",
        ),
    ] {
        let settings = read(flags, &variables).unwrap().unwrap();
        assert_eq!(settings.endpoint.to_string(), wanted);
    }
}

#[test]
fn what_is_no_address_is_refused_with_the_form() {
    for url in [
        "otel:4317",
        "grpc://otel:4317",
        "http://otel:4317/v1/traces",
        "http://user:secret@otel",
        "http://",
        "nothing at all",
    ] {
        let flags = TracingFlags {
            tracing_endpoint: Some(url.into()),
            ..TracingFlags::default()
        };
        let error = read(&flags, &[]).unwrap_err().to_string();
        assert!(error.starts_with("--tracing-endpoint: "), "{error}");
        assert!(error.contains("write http://HOST:4317"), "{url}: {error}");
    }
    let tls = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://otel")];
    let error = error(&tls);
    assert!(error.contains("needs a PEM file"), "{error}");
}

#[test]
fn a_protocol_that_is_not_spoken_is_named() {
    let error = error(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
    let wanted = "OTEL_EXPORTER_OTLP_PROTOCOL: `http/protobuf` is not spoken here; write grpc";
    assert_eq!(error, wanted);
}

#[test]
fn headers_and_attributes_are_lists_with_encoded_values_and_mistakes_show_no_secret() {
    let settings = of(&[
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "Authorization=Bearer%20s%3Dx, api-key=7 ,",
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,env=a%2Cb"),
        ("OTEL_SERVICE_NAME", "shop"),
    ]);
    assert_eq!(settings.timeout, Duration::from_millis(2_500));
    assert_eq!(settings.headers.get("authorization").unwrap(), "Bearer s=x");
    assert_eq!(settings.headers.get("api-key").unwrap(), "7");
    assert!(!format!("{settings:?}").contains("Bearer"));
    let resource = settings.resource("default", vec![text("env", "own"), text("k", "v")]);
    let said = [
        text("env", "a,b"),
        text("service.name", "shop"),
        text("k", "v"),
    ];
    assert_eq!(resource, said);
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=secret%4"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b b=secret"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,=secret"),
    ] {
        let error = error(&[(name, value)]);
        assert!(
            error.starts_with(&format!("{name}: entry 2 is ")),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }
    for text in ["0", "soon", "600001"] {
        let error = error(&[("OTEL_EXPORTER_OTLP_TIMEOUT", text)]);
        assert!(error.contains("write milliseconds"), "{error}");
    }
}

#[test]
fn the_service_is_called_by_its_default_name_unless_somebody_says_otherwise() {
    let names = |settings: Settings| settings.resource("waypoint.shop", Vec::new());
    assert_eq!(names(of(&[])), [text("service.name", "waypoint.shop")]);
    let said = of(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine")]);
    assert_eq!(names(said), [text("service.name", "mine")]);
}

#[test]
fn samplers_have_their_names_of_the_specification() {
    let sampler = |is_parent_based, ratio| Sampler {
        is_parent_based,
        ratio,
    };
    assert_eq!(of(&[]).sampler, sampler(true, 0.01));
    for (name, argument, wanted) in [
        ("always_on", None, sampler(false, 1.0)),
        ("always_off", Some("1"), sampler(false, 0.0)),
        ("traceidratio", Some("0.25"), sampler(false, 0.25)),
        ("traceidratio", None, sampler(false, 1.0)),
        ("parentbased_always_on", None, sampler(true, 1.0)),
        ("parentbased_always_off", None, sampler(true, 0.0)),
        ("parentbased_traceidratio", Some("0.5"), sampler(true, 0.5)),
    ] {
        let mut all = vec![("OTEL_TRACES_SAMPLER", name)];
        all.extend(argument.map(|text| ("OTEL_TRACES_SAMPLER_ARG", text)));
        assert_eq!(of(&all).sampler, wanted, "{name}");
    }
    let named = error(&[("OTEL_TRACES_SAMPLER", "jaeger_remote")]);
    assert!(named.contains("`jaeger_remote` is not known"), "{named}");
    for text in ["2", "-1", "half", "NaN"] {
        let all = [
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", text),
        ];
        assert!(error(&all).contains("from 0 to 1"), "{text}");
    }
}

#[test]
fn the_flag_says_percent_of_what_has_no_parent() {
    let flags = |percent| TracingFlags {
        tracing_endpoint: Some("http://otel".into()),
        tracing_sampling: Some(percent),
    };
    let others = [("OTEL_TRACES_SAMPLER", "always_off")];
    let sampler = read(&flags(12.5), &others).unwrap().unwrap().sampler;
    assert_eq!((sampler.is_parent_based, sampler.ratio), (true, 0.125));
    for percent in [-1.0, 100.5, f64::NAN] {
        let error = read(&flags(percent), &[]).unwrap_err().to_string();
        assert!(error.contains("from 0 to 100"), "{error}");
    }
}

#[test]
fn a_parent_decides_for_a_sampler_that_follows_it_and_the_trace_id_for_the_others() {
    let half = |is_parent_based| Sampler {
        is_parent_based,
        ratio: 0.5,
    };
    let (low, high) = (u64::MAX / 2 - 2_000, u64::MAX / 2 + 2_000);
    for (sampler, id, parent, wanted) in [
        (half(true), high, Some(true), true),
        (half(true), low, Some(false), false),
        (half(true), low, None, true),
        (half(true), high, None, false),
        (half(false), high, Some(true), false),
        (half(false), low, Some(false), true),
    ] {
        assert_eq!(sampler.samples(id, parent), wanted, "{id:x} {parent:?}");
    }
    let (all, none) = (
        Sampler {
            is_parent_based: true,
            ratio: 1.0,
        },
        Sampler {
            is_parent_based: true,
            ratio: 0.0,
        },
    );
    assert!(all.samples(u64::MAX, None) && !none.samples(0, None));
}
