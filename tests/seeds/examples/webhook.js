async function processPrompt(prompt) {
  const response = await fetch('http://localhost:5000/api/v1/webhook', {
    method: 'POST',
    headers: {
      'Content-Type': 'application/json',
      'X-API-Token': 'your_api_token'
    },
    body: JSON.stringify({
      prompt: prompt,
      source: 'email',
      language: 'en',
      type: 'summary'
    })
  });

  const data = await response.json();
  return data.summary;
}

// Usage
processPrompt("Summarize this email: We will meet on Tuesday.")
  .then(summary => console.log(summary))
  .catch(error => console.error('Error:', error));
