// Work that no device does: for an engine that says it waits for such work, and does not.
export const start = () => ({ event: 1n })
export const finish = () => undefined
