// What ends the process where an exception leaves a function that must let none out. That of the C++
// library names the exception, for which it brings 47 KB that read names of types.
#include <cstdlib>

namespace __gnu_cxx {

void __verbose_terminate_handler() { std::abort(); }

}  // namespace __gnu_cxx
