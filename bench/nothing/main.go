// nothing does nothing. It shows how long any program written in Go takes to start and to end.
package main

func main() {}
