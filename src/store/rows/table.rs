//! The macro that turns the description of a table into code.

/// Implements [`Table`](super::Table) for a struct with one field per column:
///
/// ```text
/// table! {
///     Flag in "feature_flags" {
///         Key { id: Uuid }                 // finds the row, and names it in errors
///         Fixed { key: FlagKey }           // never changes once inserted
///         Updated { status: Status }       // set by every update
///     }
/// }
/// ```
///
/// `field as "column": Type` gives a column another name than its field. `nested field: Struct { ... }` after the columns
/// stores an optional struct, which may be shared, as one column per field. All of them are null when it is absent. Fields that may be
/// null in a struct that is present follow as `optional { ... }`.
///
/// The types must be [`Field`](super::field::Field)s. A field that is not described does not compile.
macro_rules! table {
    (
        $type:ident in $table:literal {
            $( $role:ident { $( $field:ident $(as $column:literal)? : $kind:ty ),* $(,)? } )*
        }
        $( nested $nested:ident : $struct:ident {
            $( $inner:ident $(as $inner_column:literal)? : $inner_kind:ty ),* $(,)?
        } $( optional {
            $( $maybe:ident $(as $maybe_column:literal)? : $maybe_kind:ty ),* $(,)?
        } )? )?
    ) => {
        impl Table for $type {
            const NAME: &'static str = $table;

            const COLUMNS: &'static [Column] = &[
                $( $( Column {
                    name: table!(@name $field $($column)?),
                    role: Role::$role,
                    kind: <$kind as Field>::KIND,
                }, )* )*
                $( $( Column {
                    name: table!(@name $inner $($inner_column)?),
                    role: Role::Updated,
                    kind: <$inner_kind as Field>::KIND,
                }, )* $( $( Column {
                    name: table!(@name $maybe $($maybe_column)?),
                    role: Role::Updated,
                    kind: <$maybe_kind as Field>::KIND,
                }, )* )? )?
            ];

            fn bind<B: Backend>(&self, part: Part, arguments: &mut B::Arguments) -> Result<(), BoxError> {
                $( if part.includes(Role::$role) {
                    $( B::add(arguments, self.$field.to_column())?; )*
                } )*
                $( $( B::add(arguments, self.$nested.as_ref().map(|nested| nested.$inner.to_column()))?; )*
                $( $( {
                    let value = self.$nested.as_ref().and_then(|nested| nested.$maybe.as_ref());
                    B::add(arguments, value.map(<$maybe_kind as Field>::to_column))?;
                } )* )? )?
                Ok(())
            }

            fn bind_arrays<R: Borrow<Self>>(
                rows: &[R],
                part: Part,
                arguments: &mut PgArguments,
            ) -> Result<(), BoxError> {
                let rows = || rows.iter().map(Borrow::<Self>::borrow);
                $( if part.includes(Role::$role) {
                    $( arguments.add(rows().map(|row| row.$field.to_column()).collect::<Vec<_>>())?; )*
                } )*
                $( $( {
                    let values = rows().map(|row| row.$nested.as_ref().map(|nested| nested.$inner.to_column()));
                    arguments.add(values.collect::<Vec<_>>())?;
                } )* $( $( {
                    let values = rows().map(|row| row.$nested.as_ref().and_then(|nested| nested.$maybe.as_ref()));
                    let values = values.map(|value| value.map(<$maybe_kind as Field>::to_column));
                    arguments.add(values.collect::<Vec<_>>())?;
                } )* )? )?
                Ok(())
            }

            fn decode<B: Backend>(columns: &mut Columns<'_, B>) -> Result<Self, String> {
                $( $( let $field = columns.next::<$kind>()?; )* )*
                $( let $nested = {
                    $( let $inner = columns.next::<Option<$inner_kind>>()?; )*
                    $( $( let $maybe = columns.next::<Option<$maybe_kind>>()?; )* )?
                    match ($( $inner, )*) {
                        ($( Some($inner), )*) => Some($struct { $( $inner, )* $( $( $maybe, )* )? }.into()),
                        _ => None,
                    }
                }; )?
                Ok(Self { $( $( $field, )* )* $( $nested, )? })
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $column:literal) => { $column };
}
pub(super) use table;
