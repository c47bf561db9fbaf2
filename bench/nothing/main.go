// nothing is a program that does nothing. It shows what any program written in Go costs at least, in
// system calls and page faults.
package main

func main() {}
