//! Steps and orders as people read them.

use std::fmt;

use super::{Action, Order, Value, View};

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("null"),
            number => write!(f, "{}", char::from(b'A' + number - 1)),
        }
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "view {}", self.0)
    }
}

struct Shown<'a>(&'a Order);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chosen: Vec<_> = self.0.iter().flatten().map(Value::to_string).collect();
        write!(f, "[{}]", chosen.join(", "))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose { replica, slot, value } => write!(f, "r{replica} proposes {value} at {slot}"),
            Self::Accept { replica, slot, value } => write!(f, "r{replica} accepts {value} at {slot}"),
            Self::Certify { replica, slot } => write!(f, "r{replica} has a certificate at {slot}"),
            Self::Flush { replica } => write!(f, "r{replica} flushes a record"),
            Self::Leave { replica, view } => write!(f, "r{replica} leaves for {view}"),
            Self::Lead { replica, order } => write!(f, "r{replica} begins its view with {}", Shown(order)),
            Self::Follow { replica, view, order } => write!(f, "r{replica} follows into {view} with {}", Shown(order)),
            Self::Crash { replica } => write!(f, "r{replica} crashes and starts again"),
        }
    }
}
