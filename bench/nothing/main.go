// nothing does nothing. It shows how long any program written in Go takes at least.
package main

func main() {}
