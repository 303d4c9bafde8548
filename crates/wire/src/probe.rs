//! placeholder: helper "tunnel" writes this
