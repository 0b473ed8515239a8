//! The one-line form of rules: any text is read or refused, an error points into the text, and a
//! rule that was read is printed as a text that is read back to the same rule.

#![no_main]

use libfuzzer_sys::fuzz_target;
use policy::rule::WrittenRule;

fuzz_target!(|text: &str| {
    let rule: WrittenRule = match text.parse() {
        Ok(rule) => rule,
        Err(error) => {
            let error: policy::rule::TextError = error;
            assert!(text.get(error.span.clone()).is_some(), "{error:?} of {text:?}");
            assert!(!error.message.is_empty(), "{error:?} of {text:?}");
            return;
        }
    };
    let printed = rule.to_string();
    let again: WrittenRule = match printed.parse() {
        Ok(rule) => rule,
        Err(error) => panic!("{text:?} is printed as {printed:?}, which is refused: {error}"),
    };
    assert_eq!(again, rule, "{text:?} is printed as {printed:?}");
    assert_eq!(again.to_string(), printed, "{text:?}");
});
