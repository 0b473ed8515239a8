//! Enums of reasons: why something was dropped, refused, skipped or lost.
//!
//! In: a table of variants, each with a name, what happened and what to do. Out: an enum whose variants are
//! also the indices of counters. What must hold: the table is all there is to know of a reason, so that
//! commands print it and documents are checked against it.

/// Makes an enum of a table of reasons. With a line `fn group -> Group;` before the rows, each row has a
/// variant of the enum `Group`, too, behind the name, which that function tells.
#[macro_export]
macro_rules! reasons {
    (
        $(#[$doc:meta])* pub enum $Reason:ident;
        $($variant:ident $name:literal $text:literal, $advice:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $Reason {
            $(#[doc = $text] $variant,)*
        }

        impl $Reason {
            /// Every one, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name used in counters, the CLI and the docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What the operator can do about it.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }

        impl ::core::fmt::Display for $Reason {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
    (
        $(#[$doc:meta])* pub enum $Reason:ident; $(#[$by_doc:meta])* fn $by:ident -> $Group:ident;
        $($variant:ident $name:literal $group:ident $text:literal, $advice:literal;)*
    ) => {
        $crate::reasons! {
            $(#[$doc])* pub enum $Reason;
            $($variant $name $text, $advice;)*
        }

        impl $Reason {
            $(#[$by_doc])*
            pub const fn $by(self) -> $Group {
                match self { $(Self::$variant => $Group::$group,)* }
            }
        }
    };
}
