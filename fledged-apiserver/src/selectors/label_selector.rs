//! Label selectors.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::validate::{label_value_faults, qualified_name_faults};

/// A label selector in the syntax of the API: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>5,m<6`.
#[derive(Debug, Clone, Default)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    /// Reads a selector.
    ///
    /// # Errors
    ///
    /// A syntax error.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut lexer = Lexer { rest: text };
        let mut requirements = Vec::new();
        if lexer.peek() == Token::End {
            return Ok(Self(requirements));
        }
        loop {
            requirements.push(requirement(&mut lexer)?);
            match lexer.next() {
                Token::End => return Ok(Self(requirements)),
                Token::Comma => match lexer.peek() {
                    Token::Word(_) | Token::Not => {}
                    other => {
                        return Err(format!(
                            "found '{}', expected: identifier after ','",
                            other.text()
                        ));
                    }
                },
                other => {
                    return Err(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.text()
                    ));
                }
            }
        }
    }

    pub(crate) fn matches(&self, labels: Option<&Value>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key));
            let value = value.and_then(Value::as_str);
            match (&requirement.test, value) {
                (Test::In(values), Some(value)) => values.contains(value),
                (Test::NotIn(values), Some(value)) => !values.contains(value),
                (Test::Exists, value) => value.is_some(),
                (Test::NotIn(_) | Test::Absent, None) => true,
                (Test::Greater(than), Some(value)) => value.parse().is_ok_and(|v: i64| v > *than),
                (Test::Less(than), Some(value)) => value.parse().is_ok_and(|v: i64| v < *than),
                (Test::In(_) | Test::Greater(_) | Test::Less(_), None)
                | (Test::Absent, Some(_)) => false,
            }
        })
    }
}

fn requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, String> {
    let negated = lexer.peek() == Token::Not;
    if negated {
        lexer.next();
    }
    let key = match lexer.next() {
        Token::Word(word) => word.to_owned(),
        other => return Err(format!("found '{}', expected: identifier", other.text())),
    };
    if let Some(fault) = qualified_name_faults(&key).into_iter().next() {
        return Err(format!("key: Invalid value: {key:?}: {fault}"));
    }
    let test = match lexer.peek() {
        Token::End | Token::Comma => match negated {
            true => Test::Absent,
            false => Test::Exists,
        },
        _ if negated => return Err("found '!' before a requirement with a value".to_owned()),
        _ => test(lexer)?,
    };
    if let Test::In(values) | Test::NotIn(values) = &test {
        for value in values {
            if let Some(fault) = label_value_faults(value).into_iter().next() {
                return Err(format!(
                    "values[0][{key}]: Invalid value: {value:?}: {fault}"
                ));
            }
        }
    }
    Ok(Requirement { key, test })
}

fn test(lexer: &mut Lexer<'_>) -> Result<Test, String> {
    let operator = lexer.next();
    match operator {
        Token::Equal => Ok(Test::In(BTreeSet::from([lexer.value()?]))),
        Token::Unequal => Ok(Test::NotIn(BTreeSet::from([lexer.value()?]))),
        Token::Word("in") => Ok(Test::In(lexer.values()?)),
        Token::Word("notin") => Ok(Test::NotIn(lexer.values()?)),
        Token::Greater | Token::Less => {
            let value = lexer.value()?;
            let number = value.parse();
            let number = number.map_err(|_| {
                format!("values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer")
            })?;
            match operator {
                Token::Greater => Ok(Test::Greater(number)),
                _ => Ok(Test::Less(number)),
            }
        }
        other => Err(format!(
            "found '{}', expected: in, notin, =, ==, !=, gt, lt",
            other.text()
        )),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    Word(&'t str),
    Comma,
    Open,
    Close,
    Not,
    Equal,
    Unequal,
    Greater,
    Less,
    End,
}

impl<'t> Token<'t> {
    fn text(self) -> &'t str {
        match self {
            Self::Word(word) => word,
            Self::Comma => ",",
            Self::Open => "(",
            Self::Close => ")",
            Self::Not => "!",
            Self::Equal => "=",
            Self::Unequal => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::End => "",
        }
    }
}

struct Lexer<'t> {
    rest: &'t str,
}

impl<'t> Lexer<'t> {
    fn peek(&self) -> Token<'t> {
        Lexer { rest: self.rest }.next()
    }

    fn next(&mut self) -> Token<'t> {
        const SIGNS: [(&str, Token<'static>); 9] = [
            ("==", Token::Equal),
            ("!=", Token::Unequal),
            ("=", Token::Equal),
            ("!", Token::Not),
            (">", Token::Greater),
            ("<", Token::Less),
            (",", Token::Comma),
            ("(", Token::Open),
            (")", Token::Close),
        ];
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if self.rest.is_empty() {
            return Token::End;
        }
        for (sign, token) in SIGNS {
            if let Some(rest) = self.rest.strip_prefix(sign) {
                self.rest = rest;
                return token;
            }
        }
        let special = |c: char| "=!(),>< \t\r\n".contains(c);
        let end = self.rest.find(special).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Token::Word(word)
    }

    /// A value, which may be empty.
    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Word(word) => {
                self.next();
                Ok(word.to_owned())
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        match self.next() {
            Token::Open => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = BTreeSet::new();
        loop {
            match self.peek() {
                Token::Word(word) => {
                    self.next();
                    values.insert(word.to_owned());
                }
                _ => {
                    values.insert(String::new());
                }
            }
            match self.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_and_field_selectors_match() {
        let labels = json!({"tier": "backend", "n": "7", "example.com/x": ""});
        for (selector, expected) in [
            ("", true),
            ("tier", true),
            ("!tier", false),
            ("tier=backend", true),
            ("tier==backend,n=7", true),
            ("tier!=backend", false),
            ("absent!=x", true),
            ("tier in (frontend, backend)", true),
            ("tier notin (frontend,backend),n", false),
            ("absent notin (x)", true),
            ("example.com/x=", true),
            ("n>6,n<8", true),
            ("n>7", false),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(Some(&labels)), expected, "{selector}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for selector in [
            "=a", "a in b", "a in (b", "a,,b", "-a=b", "a=b c", "!a=b", "a>b", ",a", "a=b,",
        ] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }
}
