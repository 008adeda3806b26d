/** @returns path of the library, built unless it is newer than its source */
export function buildFakeVerbs(): string
