/** Memory, plan tools, and the bridge from an engine addon to the contract, `@kvx/contract`. */
export { loadAddon } from './load.ts'
export { adoptGpu, type SharedGpuMemory } from './adopt-gpu.ts'
export { adopt, allocate, type AllocatedMemory } from './memory.ts'
export { type AllocatedGpuMemory } from './gpu-memory.ts'
export { type Gpu, type Gpus, gpus } from './gpus.ts'
export { expand } from './expand.ts'
export { gather, scatter, tensorWidth, type TokenCopy } from './tokens.ts'
export { openNativeEngine, type EngineBinding, type NativeEngineInit } from './engine.ts'
