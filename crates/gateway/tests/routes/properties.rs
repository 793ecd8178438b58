//! What holds for every path and every request.

use gateway::identify::{Refused, Rules, Source};
use model::KeyKind;
use proptest::prelude::*;

use super::request::Request;
use super::{route, segment, service, user};

proptest! {
    // A failure prints its case whole; a file beside the tests would say no more.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A prefix is met by whole segments alone, whatever stands behind it and however it is escaped.
    #[test]
    fn a_prefix_ends_where_a_segment_ends(
        name in "[a-z]{1,6}", tail in "[a-z0-9_~.-]{1,6}", rest in "(/[a-z0-9]{0,4}){0,3}", escape: bool
    ) {
        let rules = Rules::new(vec![route("shop", &format!("/{name}"))], Vec::new());
        let first = name.as_bytes()[0];
        let spelled = if escape { format!("%{first:02x}{}", &name[1..]) } else { name.clone() };
        let own = service(&rules, "h", &format!("/{spelled}{rest}"));
        prop_assert!(own.is_ok());
        let longer = service(&rules, "h", &format!("/{spelled}{tail}{rest}"));
        prop_assert_eq!(longer, Err(Refused::NoRoute));
    }

    /// An escaped slash makes no segment: neither for a prefix nor for a user.
    #[test]
    fn an_escaped_slash_divides_nothing(before in "[a-z]{1,5}", after in "[a-z]{1,5}", lower: bool) {
        let slash = if lower { "%2f" } else { "%2F" };
        let joined = format!("/{before}{slash}{after}");
        let rules = Rules::new(vec![route("shop", &format!("/{before}/{after}"))], Vec::new());
        prop_assert_eq!(service(&rules, "h", &joined), Err(Refused::NoRoute));
        let request = Request::get(&joined);
        prop_assert_eq!(user(vec![segment(1)], KeyKind::Text, &request), Err(Refused::Path));
        prop_assert_eq!(user(vec![segment(2)], KeyKind::Text, &request), Ok(None));
    }

    /// Whatever stands in the request, reading it ends in an answer, and a user that is found is spelled as PostgreSQL would.
    #[test]
    fn every_request_has_an_answer(
        target in "[ -~é]{0,40}", cookie in "[ -~]{0,40}", name in "[-_.A-Za-z]{1,12}", value in proptest::collection::vec(any::<u8>(), 0..20)
    ) {
        let value = String::from_utf8_lossy(&value).into_owned();
        let request = Request::get(&target).header("Cookie", &cookie).header(&name, &value).from("10.0.0.1");
        let sources = vec![
            Source::Header("x-user".into()), Source::Cookie("uid".into()), Source::Query("u".into()), segment(2)
        ];
        for kind in [KeyKind::Integer, KeyKind::Uuid, KeyKind::Text] {
            if let Ok(Some(user)) = user(sources.clone(), kind, &request) {
                let again = kind.canonical(&user).map(|key| key.to_string());
                prop_assert_eq!(again, Some(user));
            }
        }
    }
}
