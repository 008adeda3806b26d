/** How messages travel: encrypted, authenticated by the token, never waiting. */
export { ControlClient, type ControlClientOptions } from './client.ts'
export { decodeFrame, encodeMessage, maxMessageBytes, type Message } from './codec.ts'
export { formatEndpoint, isHost, parseEndpoint } from './endpoint.ts'
export { checkToken, deploymentKeys, type CurveKeys, type DeploymentKeys } from './keys.ts'
export { ControlServer, type Connection, type ControlServerOptions } from './server.ts'
export { baseUnsentBytes } from './socket.ts'
