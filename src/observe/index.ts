export {
  type HealthReport,
  type HealthServer,
  startHealthServer,
} from './health-server.ts'
export { createLogger, type Logger } from './logger.ts'
export { createMetrics, type GaugeSample, type Metrics } from './metrics.ts'
