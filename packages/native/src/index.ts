export * from './wheels/index.ts'
