// nothing does nothing: what any program written in Go takes to start and to end.
package main

func main() {}
