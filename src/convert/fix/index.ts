/** What is done inside the guest, on overlays over the finished copies. */
export { inspectGuest } from './guest-info.ts'
export { mergeFixes } from './merge.ts'
export { fixGuest } from './stage.ts'
