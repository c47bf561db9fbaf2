package gate

// OwnLines is for tests.
const OwnLines = ownLines
