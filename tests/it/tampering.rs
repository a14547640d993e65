//! Whatever is done to the log past the service, `toggled audit verify` finds it, and says where and what.

mod between;
mod files;
mod pages;
mod rows;
mod trimmed;
mod unreadable;
mod victim;
mod wire;
