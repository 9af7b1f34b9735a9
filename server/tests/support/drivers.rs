//! Tests over each driver. A function that takes an `Io` becomes two tests of its name, in the modules `uring` and `epoll`.

/// `over_each_driver!(a, b)`: makes tests of the functions `a` and `b` of the file that says so.
macro_rules! over_each_driver {
    ($($name:ident),+ $(,)?) => {
        mod uring {
            $(
                #[test]
                fn $name() {
                    super::$name(bft_server::Io::Uring);
                }
            )+
        }

        mod epoll {
            $(
                #[test]
                fn $name() {
                    super::$name(bft_server::Io::Epoll);
                }
            )+
        }
    };
}
