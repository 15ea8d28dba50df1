// n8n's start command loads this module. The names are exported one by one because n8n also imports it as an ES module,
// which sees only names it can find without running the code.
const nothing = new Proxy({}, { get: (_, name) => (name === 'then' ? undefined : () => undefined) });
class McpServer {
	static instance() {
		return nothing;
	}
}
class Part {
	constructor() {
		return nothing;
	}
}
exports.McpServer = McpServer;
exports.QueuedExecutionStrategy = Part;
exports.DirectExecutionStrategy = Part;
exports.RedisSessionStore = Part;
exports.InMemorySessionStore = Part;
