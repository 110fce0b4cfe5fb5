curl -X POST \
  -H "Content-Type: application/json" \
  -H "X-API-Token: your_api_token" \
  -d '{"prompt":"Summarize this meeting: we need to reduce hiring."}' \
  http://localhost:5000/api/v1/webhook
